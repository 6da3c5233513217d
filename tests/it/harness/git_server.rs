//! A server of repositories on loopback that wants a user and a password: `git http-backend`, which comes with git, behind the
//! smallest front that speaks to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{PATIENCE, require};

/// What becomes of a request that shows the right credential.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// It is answered.
    Answers,
    /// It is not answered while the client waits.
    Hangs,
    /// It is sent to the same path at this server, whoever it is.
    Redirects(String),
}

/// The server; its thread ends with the test binary.
pub(crate) struct GitServer {
    port: u16,
    shown: Receiver<Option<String>>,
}

impl GitServer {
    /// Serves the repositories below `directory` to `user`.
    pub(crate) fn start(directory: &Path, user: &str, password: &str, manner: &Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, shown) = channel();
        let wanted = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
        let (directory, manner) = (directory.to_owned(), manner.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let front = Front {
                    directory: directory.clone(),
                    wanted: wanted.clone(),
                    manner: manner.clone(),
                    tell: tell.clone(),
                };
                // A client that leaves is what some tests are about.
                std::thread::spawn(move || drop(front.answer(&stream.unwrap())));
            }
        });
        Self { port, shown }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits for a request with the right credential.
    #[track_caller]
    pub(crate) fn until_let_in(&self) {
        while self.shown.recv_timeout(PATIENCE).unwrap().is_none() {}
    }

    /// What each request so far showed as `Authorization`.
    pub(crate) fn shown(&self) -> Vec<Option<String>> {
        self.shown.try_iter().collect()
    }
}

struct Front {
    directory: PathBuf,
    wanted: String,
    manner: Manner,
    tell: Sender<Option<String>>,
}

impl Front {
    fn answer(self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| {
            headers
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        let shown = header("authorization");
        let is_right = shown.as_ref() == Some(&self.wanted);
        let _ = self.tell.send(shown);
        if let Manner::Redirects(to) = &self.manner {
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: {to}{path}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            return stream.write_all(answer.as_bytes());
        }
        if !is_right {
            let answer = b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"git\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(answer);
        }
        if matches!(self.manner, Manner::Hangs) {
            return reader.read_line(&mut request).map(drop);
        }
        let body = body(
            &mut reader,
            header("content-length"),
            header("transfer-encoding").as_deref(),
        )?;
        let said = self.backend(&request, &header, &body);
        let end = said.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let (head, content) = (String::from_utf8_lossy(&said[..end]), &said[end + 4..]);
        let status = head
            .lines()
            .find_map(|line| line.strip_prefix("Status: "))
            .unwrap_or("200 OK");
        let rest: Vec<_> = head
            .lines()
            .filter(|line| !line.starts_with("Status: "))
            .collect();
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{}\r\nconnection: close\r\n\r\n",
            rest.join("\r\n")
        )?;
        stream.write_all(content)
    }

    /// What the program of git answers (git-http-backend(1)).
    fn backend(&self, request: &str, header: &dyn Fn(&str) -> Option<String>, body: &[u8]) -> Vec<u8> {
        let mut words = request.split(' ');
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut command = Command::new(require("git"));
        command
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.directory)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REQUEST_METHOD", method)
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REMOTE_USER", "somebody")
            .env("REMOTE_ADDR", "127.0.0.1")
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("CONTENT_TYPE", header("content-type").unwrap_or_default());
        for (name, variable) in [
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
            ("git-protocol", "HTTP_GIT_PROTOCOL"),
        ] {
            if let Some(value) = header(name) {
                command.env(variable, value);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let body = body.to_vec();
        let writing = std::thread::spawn(move || drop(input.write_all(&body)));
        let said = child.wait_with_output().unwrap().stdout;
        writing.join().unwrap();
        said
    }
}

fn body(reader: &mut impl BufRead, length: Option<String>, coding: Option<&str>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if coding == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.take(size).read_to_end(&mut body)?;
            reader.read_line(&mut line)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut body)?;
    Ok(body)
}
