//! Outcomes as they are remembered. Thousands of them are kept for minutes and hardly one is ever asked for, so a small
//! one is packed into a single short allocation; a large one is kept as it is, without a copy.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::once::Product;
use crate::exec::{EndRecord, Finished};
use crate::ids::ProcessId;
use crate::stream::Kept;

/// Output beyond this is kept as it is, bytes.
const SMALL: usize = 4096;

/// What came of a key.
#[derive(Debug)]
pub(super) enum Remembered {
    /// In the form of [`Packed`].
    Packed(Box<[u8]>),
    /// As it came.
    Whole(Product),
}

/// What is packed of a command that ran.
#[derive(Serialize, Deserialize)]
struct Packed {
    id: ProcessId,
    stdout: Kept,
    stderr: Kept,
    end: EndRecord,
}

impl Remembered {
    pub(super) fn of(product: &Product) -> Self {
        let Product::Ran(finished) = product else {
            return Self::Whole(product.clone());
        };
        if output(finished) > SMALL {
            return Self::Whole(product.clone());
        }
        let packed = Packed {
            id: finished.id,
            stdout: finished.stdout.clone(),
            stderr: finished.stderr.clone(),
            end: EndRecord::clone(&finished.end),
        };
        postcard::to_allocvec(&packed).map_or_else(
            |_| Self::Whole(product.clone()),
            |bytes| Self::Packed(bytes.into_boxed_slice()),
        )
    }

    /// It again; `None` when it cannot be read, which only a bug makes.
    pub(super) fn product(&self) -> Option<Product> {
        let bytes = match self {
            Self::Whole(product) => return Some(product.clone()),
            Self::Packed(bytes) => bytes,
        };
        let Packed {
            id,
            stdout,
            stderr,
            end,
        } = postcard::from_bytes(bytes).ok()?;
        let end = Arc::new(end);
        Some(Product::Ran(Arc::new(Finished {
            id,
            stdout,
            stderr,
            end,
        })))
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let beyond = match self {
            Self::Packed(bytes) => bytes.len(),
            Self::Whole(Product::Made(_)) => 0,
            Self::Whole(Product::Ran(finished)) => {
                size_of::<Finished>() + size_of::<EndRecord>() + output(finished)
            }
        };
        size_of::<Self>() + beyond
    }
}

fn output(finished: &Finished) -> usize {
    let kept = [&finished.stdout, &finished.stderr];
    kept.map(|kept| kept.head.len() + kept.tail.len()).iter().sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::exec::{Exit, Hit, Mechanism, Oom, Promise};
    use crate::stream::{Channel, Totals};

    fn ran(stdout: &[u8]) -> Product {
        let kept = |bytes: &[u8]| Kept {
            head: Bytes::copy_from_slice(bytes),
            tail: Bytes::from_static(b"\xff\0"),
            omitted: 7,
        };
        let end = EndRecord {
            seq: 3,
            exit: Exit::Signal {
                number: 9,
                core_dumped: true,
            },
            timed_out: true,
            cancelled: false,
            sent_signal: Some(9),
            limit: Some(Hit::Wall),
            mechanism: Some(Mechanism::CgroupV1),
            tree: Promise::Cgroup,
            oom: Oom::No,
            peak_rss: Some(1 << 40),
            user_cpu: Duration::from_nanos(1),
            system_cpu: Duration::from_secs(2),
            wall: Duration::from_millis(3),
            output: Totals::of(&[(Channel::Stderr, b"two")]),
            lingering: vec![1, 2],
        };
        Product::Ran(Arc::new(Finished {
            id: ProcessId(5),
            stdout: kept(stdout),
            stderr: kept(b"two"),
            end: Arc::new(end),
        }))
    }

    #[test]
    fn what_is_remembered_is_what_came() {
        for size in [0, SMALL - 7, SMALL + 1] {
            let Product::Ran(came) = ran(&vec![b'x'; size]) else {
                unreachable!()
            };
            let remembered = Remembered::of(&Product::Ran(Arc::clone(&came)));
            assert_eq!(
                matches!(remembered, Remembered::Packed(_)),
                size < SMALL,
                "{size}"
            );
            let Some(Product::Ran(again)) = remembered.product() else {
                panic!("not a command")
            };
            assert_eq!(again, came, "{size}");
            assert!(remembered.size() >= size);
        }
        let made = Remembered::of(&Product::Made(ProcessId(4)));
        assert!(matches!(made.product(), Some(Product::Made(ProcessId(4)))));
    }

    #[test]
    fn a_small_outcome_takes_little() {
        let size = Remembered::of(&ran(b"hello\n")).size();
        assert!(size < 200, "{size}");
    }
}
