//! A service manager as a daemon sees it: the socket on which it is told things.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// The manager's end of the socket.
pub(crate) struct Manager {
    socket: UnixDatagram,
    name: String,
}

/// One message: its lines.
#[derive(Debug, Clone)]
pub(crate) struct Told(String);

impl Told {
    /// The value of one line.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Whether it says `name=1`.
    pub(crate) fn says(&self, name: &str) -> bool {
        self.value(name) == Some("1")
    }
}

impl Manager {
    /// Listens at a path.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            socket: UnixDatagram::bind(path).unwrap(),
            name: path.to_str().unwrap().to_owned(),
        }
    }

    /// Listens at a name in the abstract namespace.
    pub(crate) fn abstracted() -> Self {
        let name = format!("boxd-it-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self {
            socket: UnixDatagram::bind_addr(&address).unwrap(),
            name: format!("@{name}"),
        }
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The next message, `None` when none comes within `limit`.
    pub(crate) fn next(&self, limit: Duration) -> Option<Told> {
        let mut buffer = [0; 4096];
        self.socket
            .set_read_timeout(Some(limit.max(Duration::from_millis(1))))
            .unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(Told(String::from_utf8(buffer[..length].to_vec()).unwrap()))
    }

    /// The next message that says `name=1`; those before it are forgotten.
    #[track_caller]
    pub(crate) fn until(&self, name: &str) -> Told {
        let begin = Instant::now();
        loop {
            let told = self.next(PATIENCE.saturating_sub(begin.elapsed()));
            let told = told.unwrap_or_else(|| panic!("the manager was not told {name}=1"));
            if told.says(name) {
                return told;
            }
        }
    }

    /// Forgets all that was said so far.
    pub(crate) fn drain(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }
}
