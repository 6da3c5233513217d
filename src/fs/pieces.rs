//! The pieces of a file that a client sends one by one: each put where it belongs once, whoever sends it how often, and
//! the end when none is missing or none comes any more.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::request::Uploaded;
use super::upload::Upload;
use crate::error::Error;
use crate::stream::{Arrival, Arrivals};

/// An upload to which nothing comes for so long is given up.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its number, from 1.
    pub seq: u64,
    /// None is behind it.
    pub is_last: bool,
    /// Where it belongs, in bytes.
    pub offset: u64,
    /// Its content.
    pub bytes: Bytes,
}

/// A file on its way in.
#[derive(Debug)]
pub struct Pieces {
    file: Upload,
    arrivals: Mutex<Arrivals>,
    /// A piece came, or is there now.
    news: Notify,
}

/// How the arriving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// Every piece is there.
    Whole,
    /// Nothing came for too long.
    GivenUp,
}

impl Pieces {
    /// Nothing has come for `file`.
    pub fn new(file: Upload) -> Self {
        Self {
            file,
            arrivals: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Puts a piece where it belongs; one that is there already is taken for put.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it does not fit to what has come, else what the disk says.
    pub async fn take(&self, piece: Piece) -> Result<(), Error> {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let arrival = self.arrivals.lock().come(piece.seq, piece.is_last);
            match arrival {
                Arrival::Fresh => break,
                Arrival::There => return Ok(()),
                Arrival::Busy => news.await,
                Arrival::Refused(reason) => {
                    return Err(Error::Invalid {
                        field: "seq",
                        reason: format!("{}: {reason}", piece.seq),
                    });
                }
            }
        }
        self.news.notify_waiters();
        let claim = Claim {
            pieces: self,
            seq: piece.seq,
            put: false,
        };
        self.file.write_at(piece.offset, piece.bytes).await?;
        claim.put();
        Ok(())
    }

    /// Whether every piece is there.
    pub fn are_whole(&self) -> bool {
        self.arrivals.lock().are_complete()
    }

    /// Resolves when every piece is there, or nothing came for too long. Cancel-safe.
    pub async fn arrive(&self) -> Arrived {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if self.are_whole() {
                return Arrived::Whole;
            }
            tokio::select! {
                () = news => {}
                () = tokio::time::sleep(IDLE) => return Arrived::GivenUp,
            }
        }
    }

    /// Gives the file its name: see [`Upload::commit`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn commit(&self) -> Result<Uploaded, Error> {
        self.file.commit().await
    }

    /// Lets go of what was not committed.
    pub async fn abort(&self) {
        if let Err(error) = self.file.abort().await {
            tracing::debug!(%error, "an upload ends with the daemon");
        }
    }
}

/// A piece that is being put there; it may come again when that fails.
struct Claim<'a> {
    pieces: &'a Pieces,
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
        let mut arrivals = self.pieces.arrivals.lock();
        if self.put {
            arrivals.put(self.seq);
        } else {
            arrivals.failed(self.seq);
        }
        drop(arrivals);
        self.pieces.news.notify_waiters();
    }
}
