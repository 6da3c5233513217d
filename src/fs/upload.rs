//! Writing a file piece by piece: the pieces come in any order and at any time, the file takes its name when its writer
//! says that all are there. Everything else is as in `write.rs`, whose plan it follows: owner and mode of a replaced
//! file, symbolic links, confinement, and what is only written in place when that is allowed.
//!
//! Which pieces are missing is the affair of the caller. A file that is replaced can be held to what the writer believes
//! to be in it ([`Base`](super::Base)), when the upload begins and again when it ends.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::Shared;
use super::base::{exchange, expect};
use super::blocking;
use super::digest::digest;
use super::path::Location;
use super::plan::{Order, Plan, plan};
use super::request::{Begin, Reach, Uploaded};
use super::sink::Sink;
use crate::error::Error;
use crate::lifecycle::Transfer;

/// A file that is being written piece by piece. Dropped before [`Upload::commit`] it leaves nothing.
#[derive(Debug, Clone)]
pub struct Upload {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    reach: Reach,
    begin: Begin,
    /// Taken when it is committed or given up; pieces are written with it shared.
    sink: RwLock<Option<(Box<Sink>, Transfer)>>,
    /// What pieces were written, without holes between those that touch: first bytes, and those behind the last.
    written: Mutex<BTreeMap<u64, u64>>,
}

pub(super) async fn begin(shared: Arc<Shared>, reach: Reach, begin: Begin) -> Result<Upload, Error> {
    blocking::run(move || {
        let location = Location::new(reach, &shared.workspace, &begin.path)?;
        if let Some(base) = &begin.base {
            expect(&location, base)?;
        }
        let order = Order {
            reach,
            path: begin.path.clone(),
            create_parents: begin.create_parents,
            append: false,
            mode: begin.mode,
            in_place: begin.in_place,
        };
        let Plan::Sink(sink) = plan(&shared, &order)? else {
            return Err(in_one_piece(&location.absolute));
        };
        if sink.collected().is_none() {
            return Err(in_one_piece(&location.absolute));
        }
        let under_way = shared.transfers.begin();
        let inner = Inner {
            shared,
            reach,
            begin,
            sink: RwLock::new(Some((sink, under_way))),
            written: Mutex::default(),
        };
        Ok(Upload {
            inner: Arc::new(inner),
        })
    })
    .await
}

fn in_one_piece(path: &Path) -> Error {
    Error::Conflict {
        what: format!("write {path:?}"),
        reason: "it can only be written from its beginning to its end, and not in pieces".into(),
    }
}

impl Upload {
    /// Writes a piece; it is in the unfinished file when this is answered.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] after the end, and whatever the disk says.
    pub async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking::run(move || inner.write_at(offset, &bytes)).await
    }

    /// Gives the file its name, and answers what is in it.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when what it replaces is not what it is to be; [`Error::Invalid`] when the pieces leave a hole.
    pub async fn commit(&self) -> Result<Uploaded, Error> {
        let inner = Arc::clone(&self.inner);
        blocking::run(move || inner.commit()).await
    }

    /// Lets go of everything. Nothing is left when this is answered, unless it was committed.
    ///
    /// # Errors
    ///
    /// [`Error::Stopping`] only.
    pub async fn abort(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        blocking::run(move || {
            drop(inner.sink.write().take());
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let sink = self.sink.read();
        let file = sink.as_ref().and_then(|(sink, _)| sink.collected());
        let file = file.ok_or_else(|| self.over())?;
        file.write_all_at(bytes, offset)
            .map_err(|source| Error::from_path_io("file", "write", &self.begin.path, source))?;
        cover(&mut self.written.lock(), offset, bytes.len() as u64);
        Ok(())
    }

    fn over(&self) -> Error {
        Error::Conflict {
            what: format!("upload of {:?}", self.begin.path),
            reason: "it is over".into(),
        }
    }

    fn commit(&self) -> Result<Uploaded, Error> {
        // Nobody writes any more while it is ours.
        let (sink, _under_way) = self.sink.write().take().ok_or_else(|| self.over())?;
        let file = sink.collected().ok_or_else(|| self.over())?;
        let failed = |source| Error::from_path_io("file", "write", &self.begin.path, source);
        let bytes = file.metadata().map_err(failed)?.len();
        if !is_covered(&self.written.lock(), bytes) {
            return Err(Error::Invalid {
                field: "offset",
                reason: format!("the pieces do not cover all of the {bytes} bytes of the file"),
            });
        }
        let digest = digest(file).map_err(failed)?;
        let location = Location::new(self.reach, &self.shared.workspace, &self.begin.path)?;
        let written = exchange(&self.shared, &location, self.begin.base.as_ref(), *sink)?;
        Ok(Uploaded {
            path: written.path,
            bytes,
            digest,
            atomic: written.atomic,
            durability: written.durability,
        })
    }
}

/// Notes that so many bytes from `first` on are there.
fn cover(written: &mut BTreeMap<u64, u64>, first: u64, length: u64) {
    let (mut first, mut end) = (first, first.saturating_add(length));
    if first == end {
        return;
    }
    // Those that it touches or overlaps become one with it.
    while let Some((at, behind)) = written
        .range(..=end)
        .next_back()
        .map(|(at, behind)| (*at, *behind))
        && behind >= first
    {
        written.remove(&at);
        first = first.min(at);
        end = end.max(behind);
    }
    written.insert(first, end);
}

/// Whether all of the first `bytes` bytes are there.
fn is_covered(written: &BTreeMap<u64, u64>, bytes: u64) -> bool {
    bytes == 0 || written.get(&0).is_some_and(|end| *end >= bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_cover_what_has_no_hole() {
        let mut written = BTreeMap::new();
        for (first, length, whole) in [
            (8, 4, false),
            (0, 4, false),
            (0, 4, false),
            (6, 3, false),
            (4, 2, true),
        ] {
            cover(&mut written, first, length);
            assert_eq!(is_covered(&written, 12), whole, "{written:?}");
        }
        assert_eq!(written.len(), 1);
        cover(&mut written, 20, 0);
        assert_eq!(written.len(), 1);
        assert!(is_covered(&BTreeMap::new(), 0) && !is_covered(&written, 13));
    }
}
