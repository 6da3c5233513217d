//! A credential on its way to git: never in an argument, an environment, a file or a log.
//!
//! ```text
//!   git --(credential.helper)--> boxd git-credential SOCKET --(unix socket)--> this daemon
//! ```
//!
//! The socket lies in a directory that only the daemon's user may enter, under a name that nobody can guess, and is there for
//! one operation. It answers one question, for exactly the scheme, host and port that the operation was started for: a
//! redirect elsewhere gets nothing. While it is there, hooks and submodules are off, and the repository may not say which way
//! the credential goes (`safety.rs`). Whoever else runs as the daemon's user is believed, as for its token file.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;
use crate::telemetry::Secret;

/// Bytes of a question.
const QUESTION: u64 = 64 << 10;
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A user and what proves that it is them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user; with a token often anything.
    pub username: String,
    /// Password or token.
    pub password: Secret<String>,
}

/// What a credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    /// With the port, where one is given.
    host: String,
}

impl Origin {
    /// That of `url`, which has to be one of HTTP.
    pub(super) fn of(url: &str) -> Result<Self, Error> {
        let parts = url
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "https" | "http"));
        let (scheme, rest) = parts.ok_or_else(|| Error::Invalid {
            field: "credential",
            reason: format!("is for https and http remotes, not for {url:?}"),
        })?;
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        Ok(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
        })
    }
}

/// What git asks its helper (gitcredentials(7)), as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    protocol: String,
    host: String,
}

impl Asked {
    /// Reads `key=value` lines.
    pub fn parse(text: &str) -> Self {
        let mut asked = Self::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("protocol", value)) => value.clone_into(&mut asked.protocol),
                Some(("host", value)) => value.clone_into(&mut asked.host),
                _ => {}
            }
        }
        asked
    }
}

/// Answers git's helper once, until it is dropped.
#[derive(Debug)]
pub(super) struct Service {
    directory: Directory,
    _running: DropGuard,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Whatever stays is an empty socket that nobody answers.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Service {
    /// Listens; inside a runtime.
    pub(super) fn start(credential: Credential, origin: Origin) -> Result<Self, Error> {
        let name = format!("boxd-credential-{}", uuid::Uuid::new_v4().simple());
        let directory = Directory(std::env::temp_dir().join(name));
        let failed = |source| Error::Io {
            doing: format!("make a socket for credentials in {:?}", directory.0),
            source,
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory.0)
            .map_err(failed)?;
        let listener = UnixListener::bind(directory.0.join("s")).map_err(failed)?;
        let running = CancellationToken::new();
        let ended = running.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with this value, before the operation that it is part of"
        )]
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = serve(listener, credential, origin) => {}
            }
        });
        Ok(Self {
            directory,
            _running: running.drop_guard(),
        })
    }

    /// What tells git to ask `own`, this executable, here and nowhere else.
    pub(super) fn settings(&self, own: &Path) -> Vec<OsString> {
        let mut helper = OsString::from("credential.helper=!");
        helper.push(quoted(own));
        helper.push(" git-credential ");
        helper.push(quoted(&self.directory.0.join("s")));
        let rest = [
            "credential.useHttpPath=false",
            "http.followRedirects=initial",
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "submodule.recurse=false",
            "fetch.recurseSubmodules=false",
            "push.recurseSubmodules=no",
        ];
        let mut settings = vec!["credential.helper=".into(), helper];
        settings.extend(rest.map(OsString::from));
        settings
    }
}

/// A path as one word for a shell.
fn quoted(path: &Path) -> OsString {
    let mut word = vec![b'\''];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => word.extend_from_slice(br"'\''"),
            other => word.push(*other),
        }
    }
    word.push(b'\'');
    OsString::from_vec(word)
}

/// Answers until the credential was given.
async fn serve(listener: UnixListener, credential: Credential, origin: Origin) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            return;
        };
        let own = rustix::process::geteuid().as_raw();
        if stream.peer_cred().map_or(true, |peer| peer.uid() != own) {
            continue;
        }
        let mut question = String::new();
        let mut limited = (&mut stream).take(QUESTION);
        let read = limited.read_to_string(&mut question);
        if !matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Ok(_))) {
            continue;
        }
        let asked = Asked::parse(&question);
        if (&asked.protocol, &asked.host) != (&origin.scheme, &origin.host) {
            tracing::warn!(
                host = asked.host,
                "git asked for a credential that is for another host"
            );
            continue;
        }
        let Credential { username, password } = &credential;
        let answer = format!("username={username}\npassword={}\n", password.expose());
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
}

/// The helper's side, in a process of its own: passes what git asks to the socket, and the answer back. `store` and `erase`
/// are not for us: nothing is kept.
pub fn helper(
    socket: &Path,
    verb: &str,
    mut question: impl Read,
    mut answer: impl Write,
) -> std::io::Result<()> {
    if verb != "get" {
        return Ok(());
    }
    let mut text = Vec::new();
    question.by_ref().take(QUESTION).read_to_end(&mut text)?;
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&text)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    std::io::copy(&mut stream, &mut answer)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential() -> Credential {
        Credential {
            username: "me".into(),
            password: Secret::new("hush".into()),
        }
    }

    fn ask(socket: &Path, question: &str) -> String {
        let mut answer = Vec::new();
        // Nobody answers any more.
        let _ = helper(socket, "get", question.as_bytes(), &mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_given_once_and_for_its_origin_only() {
        let service = Service::start(credential(), Origin::of("https://host:8443/x.git").unwrap()).unwrap();
        let socket = service.directory.0.join("s");
        let settings = service.settings(Path::new("/odd 'place'/boxd"));
        let settings = settings.join(std::ffi::OsStr::new("\n")).into_string().unwrap();
        assert!(!settings.contains("hush"), "{settings}");
        let helper = format!(
            "credential.helper=!'/odd '\\''place'\\''/boxd' git-credential '{}'",
            socket.display()
        );
        assert!(settings.lines().any(|line| line == helper), "{settings}");
        let asking = tokio::task::spawn_blocking(move || {
            for elsewhere in [
                "protocol=http\nhost=host:8443\n",
                "protocol=https\nhost=host\n",
                "protocol=https\nhost=evil\n",
                "",
            ] {
                assert_eq!(ask(&socket, elsewhere), "", "{elsewhere}");
            }
            let right = "protocol=https\nhost=host:8443\n";
            assert_eq!(ask(&socket, right), "username=me\npassword=hush\n");
            assert_eq!(ask(&socket, right), "");
        });
        asking.await.unwrap();
        let directory = service.directory.0.clone();
        drop(service);
        assert!(!directory.exists());
        assert!(!format!("{:?}", credential()).contains("hush"));
    }

    #[test]
    fn only_http_remotes_take_one() {
        assert!(Origin::of("ssh://host/x").is_err());
        assert!(Origin::of("git@host:x").is_err());
        let origin = Origin::of("https://user@host:1/x").unwrap();
        assert_eq!(origin.host, "host:1");
    }
}
