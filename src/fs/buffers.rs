//! Buffers of one transfer that are used again: a chunk that its reader has dropped gives its memory back, so that a
//! large transfer touches a few of them instead of fresh pages for every chunk.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// How many unused buffers a transfer keeps.
const KEPT: usize = 4;

/// The unused buffers of one transfer. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer with room for at least `capacity` bytes, not zeroed.
    pub(super) fn take(&self, capacity: usize) -> Vec<u8> {
        match self.0.lock().pop() {
            Some(buffer) if buffer.capacity() >= capacity => buffer,
            _ => Vec::with_capacity(capacity),
        }
    }

    /// The content of `buffer`, which comes back here when the last clone of it is dropped.
    pub(super) fn freeze(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Borrowed {
            buffer,
            home: self.clone(),
        })
    }
}

struct Borrowed {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut unused = self.home.0.lock();
        if unused.len() < KEPT {
            unused.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_chunk_gives_its_memory_back() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(1000);
        buffer.extend_from_slice(b"content");
        let memory = buffer.as_ptr();
        let chunk = buffers.freeze(buffer);
        let clone = chunk.slice(1..3);
        drop(chunk);
        let other = buffers.take(1000);
        assert_ne!(other.as_ptr(), memory, "a clone still uses it");
        assert_eq!(&clone[..], b"on");
        drop(clone);
        let again = buffers.take(1000);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), memory);
    }
}
