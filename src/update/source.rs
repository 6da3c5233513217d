//! Where releases are: a directory, or a server. Nothing that comes from here is believed by itself.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::LOCATION;
use hyper::{Request, Uri};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::error::Error;
use crate::web::Peer;

const PEER: Peer = Peer {
    name: "the release server",
    field: "update.base_url",
};
/// How long a file of some kilobytes may take.
const SHORT: Duration = Duration::from_secs(30);
/// How long nothing may come of a binary.
const STALL: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Bytes that are read of a file at once.
const CHUNK: usize = 256 << 10;

/// The base of the layout.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A URL without a slash at its end.
    Server(String),
}

/// What has been read of a file, and its digest.
pub(super) struct Received {
    pub(super) bytes: u64,
    /// Lower-case hex.
    pub(super) sha256: String,
}

impl Source {
    /// The source of a base: `https://`, `http://` to this machine, `file://` or an absolute path.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is none of them.
    pub(super) fn parse(base: &str) -> Result<Self, Error> {
        let path = base.strip_prefix("file://").unwrap_or(base);
        if path.starts_with('/') {
            return Ok(Self::Directory(path.into()));
        }
        let base = base.trim_end_matches('/');
        PEER.url(base)?;
        Ok(Self::Server(base.to_owned()))
    }

    /// A small file, whole.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, [`Error::TooLarge`] when it has more than `limit` bytes, else why it cannot
    /// be had.
    pub(super) async fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let reading = async {
            let mut bytes = Vec::new();
            self.pour(path, limit, &mut bytes, Path::new("")).await?;
            Ok(bytes)
        };
        let read = tokio::time::timeout(SHORT, reading).await;
        read.unwrap_or(Err(Error::Timeout {
            what: "the release server",
            after: SHORT,
        }))
    }

    /// A binary of `size` bytes into `file`, which is `at`.
    ///
    /// # Errors
    ///
    /// As [`Source::small`]; [`Error::Timeout`] when nothing comes for a minute.
    pub(super) async fn binary(
        &self,
        path: &str,
        size: u64,
        file: &mut File,
        at: &Path,
    ) -> Result<Received, Error> {
        self.pour(path, size, file, at).await
    }

    async fn pour(
        &self,
        path: &str,
        limit: u64,
        into: &mut (dyn Write + Send),
        at: &Path,
    ) -> Result<Received, Error> {
        let mut sink = Sink {
            into,
            at,
            limit,
            bytes: 0,
            hasher: Sha256::new(),
        };
        match self {
            Self::Directory(directory) => sink.read(&directory.join(path)).await?,
            Self::Server(base) => sink.fetch(&format!("{base}/{path}")).await?,
        }
        Ok(Received {
            bytes: sink.bytes,
            sha256: format!("{:x}", sink.hasher.finalize()),
        })
    }
}

/// Takes what comes, as much as may.
struct Sink<'a> {
    into: &'a mut (dyn Write + Send),
    /// What that is, for errors.
    at: &'a Path,
    limit: u64,
    bytes: u64,
    hasher: Sha256,
}

impl Sink<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limit {
            return Err(Error::TooLarge {
                what: "a file of the release",
                size: self.bytes,
                limit: self.limit,
            });
        }
        self.hasher.update(bytes);
        let written = self.into.write_all(bytes);
        written.map_err(|error| Error::from_path_io("staged executable", "write", self.at, error))
    }

    /// Not on the runtime's own threads: the disk that was carried in may hang.
    async fn read(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::from_path_io("release file", "read", path, source);
        let mut options = tokio::fs::OpenOptions::new();
        // A pipe without a writer is opened and then refused, not waited for.
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut file = in_time(options.open(path)).await?.map_err(failed)?;
        if !in_time(file.metadata()).await?.map_err(failed)?.is_file() {
            return Err(Error::WrongKind {
                path: path.to_owned(),
                found: "something else",
                expected: "a regular file",
                errno: nix::libc::EISDIR,
            });
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            match in_time(file.read(&mut chunk)).await?.map_err(failed)? {
                0 => return Ok(()),
                length => self.take(&chunk[..length])?,
            }
        }
    }

    async fn fetch(&mut self, url: &str) -> Result<(), Error> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let uri = PEER.url(&url)?;
            match self.get(&uri).await? {
                None => return Ok(()),
                Some(location) => url = elsewhere(&uri, &location)?,
            }
        }
        Err(Error::Protocol {
            reason: format!("{url} redirects more than {REDIRECTS} times"),
        })
    }

    /// One request; answers where it was redirected to, if it was.
    async fn get(&mut self, uri: &Uri) -> Result<Option<String>, Error> {
        let request = Request::get("/")
            .body(Full::<Bytes>::default())
            .map_err(|error| PEER.invalid(error.to_string()))?;
        PEER.exchange(uri, request, async |response| {
            match response.status().as_u16() {
                200 => {}
                301 | 302 | 303 | 307 | 308 => {
                    let location = response.headers().get(LOCATION);
                    let location = location.and_then(|location| location.to_str().ok());
                    let location =
                        location.ok_or_else(|| PEER.unavailable(uri, &"it redirects to nowhere"))?;
                    return Ok(Some(location.to_owned()));
                }
                404 | 410 => {
                    return Err(Error::NotFound {
                        what: "release file",
                        name: uri.to_string(),
                    });
                }
                status => return Err(PEER.unavailable(uri, &format!("it answers {status}"))),
            }
            let mut body = response.into_body();
            loop {
                let Some(frame) = in_time(body.frame()).await? else {
                    return Ok(None);
                };
                let frame = frame.map_err(|error| PEER.unavailable(uri, &error))?;
                if let Some(data) = frame.data_ref() {
                    self.take(data)?;
                }
            }
        })
        .await
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, Error> {
    let done = tokio::time::timeout(STALL, step).await;
    done.map_err(|_| Error::Timeout {
        what: "the release server",
        after: STALL,
    })
}

/// Where a redirect of `base` leads: a URL, or a path with or without a slash in front (RFC 3986, without `..`). Never from
/// `https://` to `http://`: a server elsewhere has nothing to ask for on this machine.
fn elsewhere(base: &Uri, location: &str) -> Result<String, Error> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let url = if location.contains("://") {
        location.to_owned()
    } else if let Some(other) = location.strip_prefix("//") {
        format!("{scheme}://{other}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base
            .path()
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    if scheme == "https" && !url.starts_with("https://") {
        return Err(PEER.unavailable(base, &format!("it redirects to {url:?}, which is not https")));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_directory_or_a_server_that_may_be_dialed() {
        for base in ["/srv/releases", "file:///srv/releases"] {
            let Source::Directory(directory) = Source::parse(base).unwrap() else {
                panic!("{base}")
            };
            assert_eq!(directory, Path::new("/srv/releases"));
        }
        let Source::Server(url) = Source::parse("https://example.com/boxd/").unwrap() else {
            panic!("no server")
        };
        assert_eq!(url, "https://example.com/boxd");
        for base in ["", "releases", "http://example.com", "file://releases"] {
            assert!(
                matches!(Source::parse(base), Err(Error::Invalid { .. })),
                "{base}"
            );
        }
    }

    #[tokio::test]
    async fn a_file_is_read_as_far_as_it_may() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "abc").unwrap();
        let source = Source::parse(directory.path().to_str().unwrap()).unwrap();
        assert_eq!(source.small("file", 3).await.unwrap(), b"abc");
        assert!(matches!(
            source.small("file", 2).await,
            Err(Error::TooLarge { .. })
        ));
        assert!(matches!(
            source.small("other", 2).await,
            Err(Error::NotFound { .. })
        ));
        let mut file = tempfile::tempfile().unwrap();
        let received = source
            .binary("file", 3, &mut file, Path::new("there"))
            .await
            .unwrap();
        assert_eq!(received.bytes, 3);
        assert_eq!(
            received.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
    #[tokio::test]
    async fn what_is_no_file_is_refused_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let source = Source::parse(directory.path().to_str().unwrap()).unwrap();
        for name in ["pipe", "."] {
            let refused = source.small(name, 3).await;
            assert!(matches!(refused, Err(Error::WrongKind { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_redirect_leads_where_it_says_and_never_out_of_https() {
        let base: Uri = "https://a.example/x/y?q".parse().unwrap();
        for (location, url) in [
            ("https://b.example/z", "https://b.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("/z", "https://a.example/z"),
            ("z", "https://a.example/x/z"),
        ] {
            assert_eq!(elsewhere(&base, location).unwrap(), url);
        }
        assert!(elsewhere(&base, "http://127.0.0.1/z").is_err());
        let near: Uri = "http://127.0.0.1:80/x".parse().unwrap();
        assert_eq!(
            elsewhere(&near, "http://127.0.0.1/z").unwrap(),
            "http://127.0.0.1/z"
        );
    }
}
