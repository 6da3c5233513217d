//! Files that come in pieces, each piece a request of its own: known by the id that their sender gave them, for as long as
//! pieces come, and for a while behind their end, so that a piece that is sent again is answered as the first time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{Call, Rooms};
use crate::error::Error;
use crate::fs::{Begin, Piece, Pieces, Uploaded};

/// How long an upload is known to which nothing comes.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Uploads of one principal at once.
const UPLOADS: usize = 256;

/// A piece of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPiece {
    /// The upload, as its sender calls it.
    pub id: String,
    /// What is uploaded; the same with every piece.
    pub begin: Begin,
    /// The piece.
    pub piece: Piece,
}

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadTaken {
    /// The upload.
    pub id: String,
    /// The piece.
    pub seq: u64,
    /// All pieces are there: the file has its name.
    pub committed: Option<Uploaded>,
}

/// Every upload that is known.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<Key, Arc<Known>>>);

/// Whose it is, and what they call it.
type Key = (Arc<str>, String);

#[derive(Debug)]
struct Known {
    begin: Begin,
    pieces: OnceCell<Pieces>,
    committed: OnceCell<Uploaded>,
    /// What has come: an id that is used again is not to lose another content.
    taken: Mutex<HashMap<u64, What>>,
    touched: Mutex<Instant>,
}

/// What a piece is: where it belongs, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct What {
    offset: u64,
    digest: blake3::Hash,
}

impl What {
    /// A piece may be large: its digest is computed where nobody waits for it.
    async fn of(piece: &Piece) -> Result<Self, Error> {
        let (offset, bytes) = (piece.offset, piece.bytes.clone());
        let digest = tokio::task::spawn_blocking(move || blake3::hash(&bytes)).await;
        let digest = digest.map_err(|panic| Error::Internal {
            reason: format!("a digest panicked: {panic}"),
        })?;
        Ok(Self { offset, digest })
    }
}

impl Uploads {
    fn find(&self, key: &Key, begin: &Begin) -> Result<Arc<Known>, Error> {
        let mut known = self.0.lock();
        if let Some(upload) = known.get(key) {
            if upload.begin != *begin {
                return Err(Error::Conflict {
                    what: format!("upload {:?}", key.1),
                    reason: "its first piece was for another file, or under other conditions".into(),
                });
            }
            *upload.touched.lock() = Instant::now();
            return Ok(Arc::clone(upload));
        }
        let count = known.keys().filter(|(principal, _)| *principal == key.0).count();
        if count >= UPLOADS {
            return Err(Error::Overloaded {
                what: "the number of uploads of one caller",
                reason: format!("{count} are known, {UPLOADS} may be"),
            });
        }
        let upload = Arc::new(Known {
            begin: begin.clone(),
            pieces: OnceCell::new(),
            committed: OnceCell::new(),
            taken: Mutex::default(),
            touched: Mutex::new(Instant::now()),
        });
        known.insert(key.clone(), Arc::clone(&upload));
        Ok(upload)
    }

    fn remove(&self, key: &Key) -> Option<Arc<Known>> {
        self.0.lock().remove(key)
    }

    /// Lets go of those to which nothing came for long; what they had is gone with them.
    pub(super) fn forget_old(&self, now: Instant) {
        let mut known = self.0.lock();
        known.retain(|_, upload| now.saturating_duration_since(*upload.touched.lock()) < IDLE);
    }
}

impl Rooms {
    pub(super) async fn upload_piece(&self, call: &Call, piece: UploadPiece) -> Result<UploadTaken, Error> {
        let UploadPiece { id, begin, piece } = piece;
        let key = (Arc::clone(&call.principal.id), id);
        let upload = self.uploads.find(&key, &begin)?;
        let seq = piece.seq;
        let committed = match self.take_piece(call, &upload, piece).await {
            Ok(committed) => committed,
            Err(error) => {
                // One that never began, and one whose file is not what it was to be, are over.
                let is_over = upload.pieces.get().is_none_or(Pieces::are_whole);
                if is_over && upload.committed.get().is_none() {
                    self.uploads.remove(&key);
                }
                return Err(error);
            }
        };
        Ok(UploadTaken {
            id: key.1,
            seq,
            committed,
        })
    }

    async fn take_piece(&self, call: &Call, upload: &Known, piece: Piece) -> Result<Option<Uploaded>, Error> {
        let begin = || async { self.upload(call, upload.begin.clone()).await.map(Pieces::new) };
        let pieces = upload.pieces.get_or_try_init(begin).await?;
        let (seq, what) = (piece.seq, What::of(&piece).await?);
        let known = upload.taken.lock().get(&seq).copied();
        if known.is_some_and(|known| known != what) {
            return Err(Error::Conflict {
                what: format!("piece {seq} of the upload"),
                reason: "another one with this number is there: use a new id for a new upload".into(),
            });
        }
        pieces.take(piece).await?;
        upload.taken.lock().entry(seq).or_insert(what);
        if !pieces.are_whole() {
            return Ok(None);
        }
        let committed = upload.committed.get_or_try_init(|| pieces.commit()).await?;
        Ok(Some(committed.clone()))
    }

    /// Gives up an upload; nothing of it is left.
    pub(super) async fn abort_upload(&self, call: &Call, id: String) -> Result<(), Error> {
        let key = (Arc::clone(&call.principal.id), id);
        let Some(upload) = self.uploads.remove(&key) else {
            return Err(Error::NotFound {
                what: "upload",
                name: key.1,
            });
        };
        if let Some(pieces) = upload.pieces.get() {
            pieces.abort().await;
        }
        Ok(())
    }
}
