//! Sockets: TCP addresses and Unix paths, bound before anything else starts.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::error::Error;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket; the directory has to exist.
    Unix(PathBuf),
}

impl Listen {
    /// `host:port` or `unix:/path`; the error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: needs a path, like unix:/run/boxd.sock".into());
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        text.to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .map(Self::Tcp)
            .ok_or_else(|| {
                format!("is {text:?}, expected host:port (like 127.0.0.1:2468), unix:/path or off")
            })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A bound socket. Dropping a Unix one removes its path.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketPath),
}

impl Listener {
    /// Binds `listen`. Has to be called within a runtime.
    pub(super) fn bind(listen: &Listen) -> Result<Self, Error> {
        match listen {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Unix(path) => bind_unix(path),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => write!(formatter, "http://{address}"),
            Self::Unix(_, path) => write!(formatter, "unix:{}", path.path.display()),
        }
    }
}

/// What there is already where an address is taken.
pub const TAKEN: &str = "a listener on";

fn bind_tcp(address: SocketAddr) -> Result<Listener, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::AlreadyExists {
            what: TAKEN,
            name: address.to_string(),
        },
        io::ErrorKind::PermissionDenied => Error::Denied {
            doing: format!("listen on {address}"),
            errno: source.raw_os_error().unwrap_or(0),
        },
        _ => Error::Io {
            doing: format!("listen on {address}"),
            source,
        },
    };
    // The standard library's listener sets SO_REUSEADDR, so that a restart does not wait for old connections.
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok(Listener::Tcp(
        TcpListener::from_std(listener).map_err(failed)?,
        bound,
    ))
}

/// Binds beside the path, closes the socket to others, and only then gives it its name: nobody can connect in
/// between, and a stale socket is replaced in one step.
fn bind_unix(path: &Path) -> Result<Listener, Error> {
    let failed = |source| Error::from_path_io("the directory of socket", "listen on", path, source);
    reclaim(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let listener = unix::UnixListener::bind(&beside).map_err(failed)?;
    let named = std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&beside, path))
        .and_then(|()| path.metadata());
    let inode = match named {
        Ok(metadata) => metadata.ino(),
        Err(source) => {
            // The name beside is ours; if it cannot be removed, the failure that is told below is the one that counts.
            let _ = std::fs::remove_file(&beside);
            return Err(failed(source));
        }
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    Ok(Listener::Unix(
        listener,
        SocketPath {
            path: path.to_owned(),
            inode,
        },
    ))
}

/// Makes sure that nothing alive is at `path`: only a socket that refuses connections is taken over.
fn reclaim(path: &Path) -> Result<(), Error> {
    let in_use = || Error::AlreadyExists {
        what: TAKEN,
        name: path.display().to_string(),
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::from_path_io("socket", "look at", path, source)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(Error::AlreadyExists {
            what: "a file that is no socket:",
            name: path.display().to_string(),
        }),
        Ok(_) => match unix::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(_) | Err(_) => Err(in_use()),
        },
    }
}

/// The name of a bound Unix socket.
#[derive(Debug)]
pub(super) struct SocketPath {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Another daemon may have taken the name over; then it is not ours to remove.
        if self
            .path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.ino() == self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_port_is_reported_as_bound() {
        let listener = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let address: SocketAddr = listener
            .to_string()
            .strip_prefix("http://")
            .unwrap()
            .parse()
            .unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(
            Listener::bind(&Listen::Tcp(address)).unwrap_err().code(),
            Code::AlreadyExists
        );
    }

    #[tokio::test]
    async fn a_socket_is_private_and_removed_and_a_stale_one_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("boxd.sock");
        let listen = Listen::Unix(path.clone());
        drop(unix::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&listen).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(Listener::bind(&listen).unwrap_err().code(), Code::AlreadyExists);
        drop(listener);
        assert!(!path.exists());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_name_that_another_daemon_took_over_is_left_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("boxd.sock");
        let listen = Listen::Unix(path.clone());
        let first = Listener::bind(&listen).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Listener::bind(&listen).unwrap();
        drop(first);
        assert!(unix::UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert_eq!(
            Listener::bind(&Listen::Unix(path.clone())).unwrap_err().code(),
            Code::AlreadyExists
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        let missing = Listen::Unix(directory.path().join("no/such/boxd.sock"));
        assert_eq!(Listener::bind(&missing).unwrap_err().code(), Code::NotFound);
    }
}
