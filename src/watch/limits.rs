//! How much one watch may take.

use std::time::Duration;

/// Entries of one tree.
pub(super) const ENTRIES: u64 = 2_000_000;
/// Places to look at in one batch; beyond them everything is looked at.
pub(super) const HINTS: usize = 200_000;
/// How long a watch stands without a follower.
pub(super) const LINGER: Duration = Duration::from_secs(60);
/// How long the other half of a rename is waited for.
pub(super) const HALF: Duration = Duration::from_millis(10);
/// How often what has no watch of the kernel is looked at, at most; a large tree is looked at less often, so that this
/// takes no more than about a tenth of a processor.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// How often at least.
pub(super) const POLL_SLOWEST: Duration = Duration::from_secs(30);
/// Events of one watch that are kept for those who come back, or are slow.
pub(super) const KEPT: usize = 65_536;
/// Bytes that they may take.
pub(super) const KEPT_BYTES: usize = 32 << 20;
/// Looks at trees at once: a file system that hangs takes no more threads of the pool than these.
pub(super) const LOOKS: usize = 64;
