//! Low descriptor numbers that are kept free for what newborns are given. A newborn copies the descriptors up to its own
//! seat and never has those above, which is what the daemon opens while it serves.
//!
//! That matters because closing a copy can hang: whoever closes a descriptor of a file on a dead network file system
//! waits for it, and so every birth would hang as long as one request for such a file does.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{dup3, pipe2};
use parking_lot::Mutex;

use super::sys;

/// Descriptors that a newborn is given: standard input, output and error, and the working directory.
pub(super) const GIVEN: usize = 4;
/// One descriptor in so many may be kept free.
const SHARE: u64 = 8;

/// The seats, lowest first.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// What is on a free seat.
    nothing: Option<OwnedFd>,
    free: Mutex<Vec<Option<[OwnedFd; GIVEN]>>>,
}

/// What one newborn is given, in its seat.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    seats: &'a Seats,
    index: usize,
    taken: Option<[OwnedFd; GIVEN]>,
}

impl Seats {
    /// Keeps up to `count` seats free; none where the kernel cannot leave a newborn without the rest (before 5.9). To be
    /// called before the daemon opens anything that it will close again.
    pub(super) fn reserve(count: usize) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let count = count.min(usize::try_from(limit / SHARE).unwrap_or(usize::MAX) / GIVEN);
        let nothing = sys::knows_close_range()
            .then(|| pipe2(OFlag::O_CLOEXEC).ok())
            .flatten();
        let nothing = nothing.map(|(nothing, _)| nothing);
        let seat = || {
            let one = || sys::duplicate(nothing.as_ref()?.as_raw_fd()).ok();
            Some([one()?, one()?, one()?, one()?])
        };
        let free = (0..count).map_while(|_| seat().map(Some)).collect();
        Self {
            nothing,
            free: Mutex::new(free),
        }
    }

    /// Puts copies of what is given into the lowest free seat; `None` when there is none.
    pub(super) fn take(&self, given: [BorrowedFd<'_>; GIVEN]) -> Option<Seat<'_>> {
        let (index, taken) = {
            let mut free = self.free.lock();
            let index = free.iter().position(Option::is_some)?;
            (index, free[index].take()?)
        };
        let mut seat = Seat {
            seats: self,
            index,
            taken: Some(taken),
        };
        let places = seat.taken.iter_mut().flatten();
        for (place, given) in places.zip(given) {
            dup3(given, place, OFlag::O_CLOEXEC).ok()?;
        }
        Some(seat)
    }
}

impl Seat<'_> {
    /// The copies, in the order in which they were given.
    pub(super) fn given(&self) -> Option<[BorrowedFd<'_>; GIVEN]> {
        self.taken.as_ref().map(|taken| taken.each_ref().map(AsFd::as_fd))
    }

    /// The first number above the seat.
    pub(super) fn end(&self) -> Option<RawFd> {
        self.taken.iter().flatten().map(|fd| fd.as_raw_fd() + 1).max()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let Some(mut taken) = self.taken.take() else {
            return;
        };
        for place in &mut taken {
            let nothing = self.seats.nothing.as_ref();
            if nothing.is_none_or(|nothing| dup3(nothing, place, OFlag::O_CLOEXEC).is_err()) {
                // Closed rather than kept: a pipe would stay open.
                return;
            }
        }
        self.seats.free.lock()[self.index] = Some(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_given_once_and_keeps_nothing_afterwards() {
        let seats = Seats::reserve(1);
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let given = [reader.as_fd(), reader.as_fd(), writer.as_fd(), reader.as_fd()];
        for _ in 0..2 {
            let seat = seats.take(given).unwrap();
            assert!(seats.take(given).is_none(), "there is one only");
            let copy = seat.given().unwrap()[2];
            assert!(copy.as_raw_fd() < seat.end().unwrap());
            nix::unistd::write(copy, b"x").unwrap();
        }
        drop(writer);
        let mut read = [0; 8];
        assert_eq!(nix::unistd::read(&reader, &mut read), Ok(2));
        assert_eq!(
            nix::unistd::read(&reader, &mut read),
            Ok(0),
            "nobody holds the other end"
        );
    }
}
