//! A long listing, encoded piece by piece as its reader takes it: a tree of hundreds of thousands of entries neither
//! stands in memory a second time as JSON nor keeps other requests waiting while it is written.

use std::sync::Arc;
use std::vec::IntoIter;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;

use super::body;
use super::error::Problem;
use super::meter;
use crate::fs;
use crate::telemetry::Metrics;
use crate::wire::json;

/// Entries of one piece, about 100 KB; that many are encoded at once.
const PIECE: usize = 512;

/// The entries as a JSON array.
pub(super) fn answer(entries: Vec<fs::Entry>, metrics: &Arc<Metrics>) -> Result<Response, Problem> {
    if entries.len() <= PIECE {
        let entries: Vec<_> = entries.iter().map(json::Entry::from).collect();
        return body::answer(&entries);
    }
    let rest = (Pieces::new(entries), Arc::clone(metrics));
    let pieces = futures_util::stream::unfold(rest, |(mut pieces, metrics)| async move {
        // A fast reader would be served to the end without a pause otherwise.
        tokio::task::yield_now().await;
        let piece = pieces.next()?;
        if let Ok(piece) = &piece {
            meter::count_piece(&metrics, piece);
        }
        Some((piece, (pieces, metrics)))
    });
    Ok(body::raw_json(Body::from_stream(pieces)))
}

/// What is still to be sent of an array.
struct Pieces {
    entries: IntoIter<fs::Entry>,
    has_begun: bool,
    has_ended: bool,
}

impl Pieces {
    fn new(entries: Vec<fs::Entry>) -> Self {
        Self {
            entries: entries.into_iter(),
            has_begun: false,
            has_ended: false,
        }
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE * 200);
        for entry in self.entries.by_ref().take(PIECE) {
            piece.push(if self.has_begun { b',' } else { b'[' });
            self.has_begun = true;
            if let Err(error) = serde_json::to_writer(&mut piece, &json::Entry::from(&entry)) {
                self.has_ended = true;
                return Some(Err(error));
            }
        }
        if self.entries.as_slice().is_empty() {
            self.has_ended = true;
            if !self.has_begun {
                piece.push(b'[');
            }
            piece.push(b']');
        }
        Some(Ok(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_pieces_are_the_whole_array() {
        for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let entries: Vec<_> = (0..count)
                .map(|number| fs::Entry {
                    path: format!("/work/{number}").into(),
                    kind: fs::Kind::File,
                    size: number as u64,
                    modified: SystemTime::UNIX_EPOCH,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    target: None,
                })
                .collect();
            let whole =
                serde_json::to_vec(&entries.iter().map(json::Entry::from).collect::<Vec<_>>()).unwrap();
            let pieces: Vec<_> = Pieces::new(entries).map(Result::unwrap).collect();
            assert_eq!(pieces.concat(), whole, "{count}");
            assert!(pieces.len() <= count / PIECE + 1, "{count}");
        }
    }
}
