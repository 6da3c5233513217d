//! Keeping what the kernel holds back on the way to a broker small.
//!
//! The kernel takes megabytes that it cannot send yet. On a slow way out a ping would wait behind them for longer than
//! two missed pings, and a connection that works would be given up. So the kernel is told to take little more than
//! what is on its way. The client library shows nobody its socket; it is found by the port at its other end.

use std::os::fd::RawFd;

use nix::sys::socket::{SockaddrStorage, getpeername};

/// Bytes that the kernel may hold unsent.
const UNSENT: libc::c_int = 256 << 10;

/// Bounds what is held back on every TCP connection of this process to `port`. Where that cannot be done nothing is
/// different but the delay on a slow way out.
pub(super) fn hold_back_little(port: u16) {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let descriptors = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for descriptor in descriptors.filter(|descriptor| is_connected_to(*descriptor, port)) {
        if let Err(error) = bound_unsent(descriptor) {
            tracing::debug!(%error, "the kernel holds back what it likes");
        }
    }
}

fn is_connected_to(descriptor: RawFd, port: u16) -> bool {
    let Ok(peer) = getpeername::<SockaddrStorage>(descriptor) else {
        return false;
    };
    let four = peer.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    let six = peer.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port);
    four.or(six) == Some(port)
}

#[expect(
    unsafe_code,
    reason = "a descriptor that belongs to the client library can only be named by its number"
)]
fn bound_unsent(descriptor: RawFd) -> nix::Result<()> {
    let (bytes, size) = (UNSENT, size_of_val(&UNSENT) as libc::socklen_t);
    // SAFETY: the option's value is an integer that outlives the call, and its size is given. Should the descriptor
    // have been closed meanwhile the call fails; should it be another socket by now, that one holds back little too.
    let set = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size,
        )
    };
    nix::errno::Errno::result(set).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_peer_that_does_not_read_is_sent_little_ahead() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = |bounded: bool| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _silent = listener.accept().unwrap();
            if bounded {
                hold_back_little(port);
            }
            stream.set_nonblocking(true).unwrap();
            let mut taken = 0;
            while let Ok(more) = stream.write(&[0; 4096]) {
                taken += more;
            }
            taken
        };
        let (free, bounded) = (taken(false), taken(true));
        assert!(bounded + (1 << 20) < free, "{bounded} of {free}");
    }
}
