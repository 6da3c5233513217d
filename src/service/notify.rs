//! The socket on which a service manager is told things: `sd_notify(3)`, one datagram of `NAME=value` lines a message.
//!
//! Not the crate `sd-notify`: it looks the socket up in the process environment at each message, and here the environment is
//! read once, by `config`. A new socket for each message finds a manager that made its own anew.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::error::Error;

/// How long a manager may take to take a message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the manager listens.
#[derive(Debug, Clone)]
pub struct Socket {
    address: SocketAddr,
}

impl Socket {
    /// The socket that `NOTIFY_SOCKET` names: a path, or a name in the abstract namespace after `@`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it names neither.
    pub fn parse(name: &OsStr) -> Result<Self, Error> {
        let address = match name.as_bytes() {
            [b'@', abstracted @ ..] => SocketAddr::from_abstract_name(abstracted),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        address
            .map(|address| Self { address })
            .map_err(|error| Error::Invalid {
                field: "NOTIFY_SOCKET",
                reason: format!("{name:?} is no path and no abstract name ({error})"),
            })
    }

    /// Sends one message. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when nobody listens or takes it in time.
    pub async fn send(&self, message: &str) -> Result<(), Error> {
        let sent = tokio::time::timeout(PATIENCE, self.deliver(message)).await;
        let outcome = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        outcome.map_err(|error| Error::Unavailable {
            what: "the service manager".into(),
            reason: format!("{:?}: {error}", self.address),
        })
    }

    async fn deliver(&self, message: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&self.address)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixDatagram::from_std(socket)?;
        socket.send(message.as_bytes()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn paths_and_abstract_names_are_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        Socket::parse(path.as_os_str())
            .unwrap()
            .send("READY=1")
            .await
            .unwrap();
        assert_eq!(heard(&listener), "READY=1");
        let name = format!("boxd-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = Socket::parse(format!("@{name}").as_ref()).unwrap();
        socket.send("STOPPING=1").await.unwrap();
        assert_eq!(heard(&listener), "STOPPING=1");
    }

    #[tokio::test]
    async fn nobody_and_somebody_who_takes_nothing_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = Socket::parse(path.as_os_str()).unwrap();
        assert!(matches!(socket.send("x").await, Err(Error::Unavailable { .. })));
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let mut sent = 0;
        // The kernel queues some.
        while socket.send("WATCHDOG=1").await.is_ok() {
            sent += 1;
            assert!(sent < 100_000, "the queue has no end");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for name in ["", "vsock:2:1", "relative", &"/x".repeat(200)] {
            assert!(Socket::parse(name.as_ref()).is_err(), "{name}");
        }
    }
}
