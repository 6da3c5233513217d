//! The pieces of a file that a client sends one by one: each put where it belongs once, whoever sends it how often, and
//! the end when none is missing or none comes any more.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::agent_error;
use crate::error::Error;
use crate::fs::{self, Uploaded};
use crate::stream::{Arrival, Arrivals};
use crate::wire::opstream::Failure;
use crate::wire::proto::{WriteChunk, WriteChunkAck};

/// Bytes of one piece at most.
const CHUNK: usize = 512 << 10;
/// An upload to which nothing comes for so long is given up.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// A file on its way in.
pub(super) struct Upload {
    file: fs::Upload,
    arrivals: Mutex<Arrivals>,
    /// A piece came, or is there now.
    news: Notify,
}

/// How the arriving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Every piece is there.
    Whole,
    /// Nothing came for too long.
    GivenUp,
}

impl Upload {
    /// Nothing has come for `file`.
    pub(super) fn new(file: fs::Upload) -> Self {
        Self {
            file,
            arrivals: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Puts a piece where it belongs; one that is there already is acknowledged again.
    pub(super) async fn take(&self, chunk: WriteChunk) -> Result<WriteChunkAck, Error> {
        let size = chunk.bytes.len();
        if size > CHUNK {
            return Err(Error::TooLarge {
                what: "the chunk",
                size: size as u64,
                limit: CHUNK as u64,
            });
        }
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let arrival = self.arrivals.lock().come(chunk.seq, chunk.last);
            match arrival {
                Arrival::Fresh => break,
                Arrival::There => return Ok(WriteChunkAck { seq: chunk.seq }),
                Arrival::Busy => news.await,
                Arrival::Refused(reason) => {
                    return Err(Error::Invalid {
                        field: "seq",
                        reason: format!("{}: {reason}", chunk.seq),
                    });
                }
            }
        }
        self.news.notify_waiters();
        let claim = Claim {
            upload: self,
            seq: chunk.seq,
            put: false,
        };
        self.file.write_at(chunk.offset, chunk.bytes).await?;
        claim.put();
        Ok(WriteChunkAck { seq: chunk.seq })
    }

    /// Resolves when every piece is there, or nothing came for too long. Cancel-safe.
    pub(super) async fn arrive(&self) -> Arrived {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if self.arrivals.lock().are_complete() {
                return Arrived::Whole;
            }
            tokio::select! {
                () = news => {}
                () = tokio::time::sleep(IDLE) => return Arrived::GivenUp,
            }
        }
    }

    /// Gives the file its name.
    pub(super) async fn commit(&self) -> Result<Uploaded, Failure> {
        self.file.commit().await.map_err(|error| {
            let refusal = agent_error(&error, "fs.write");
            let mut detail = refusal.detail.clone();
            detail.insert("message".into(), refusal.message.clone());
            let code = refusal.code().as_str_name();
            Failure::refused(code.trim_start_matches("ERROR_CODE_"), detail)
        })
    }

    /// Lets go of what was not committed.
    pub(super) async fn abort(&self) {
        if let Err(error) = self.file.abort().await {
            tracing::debug!(%error, "an upload ends with the daemon");
        }
    }
}

/// A piece that is being put there; it may come again when that fails.
struct Claim<'a> {
    upload: &'a Upload,
    seq: u64,
    put: bool,
}

impl Claim<'_> {
    fn put(mut self) {
        self.put = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut arrivals = self.upload.arrivals.lock();
        if self.put {
            arrivals.put(self.seq);
        } else {
            arrivals.failed(self.seq);
        }
        drop(arrivals);
        self.upload.news.notify_waiters();
    }
}
