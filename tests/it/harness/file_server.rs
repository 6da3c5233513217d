//! A server of files on loopback, as somebody who publishes releases has one: whole answers, and one that stops halfway.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::PATIENCE;

/// The server; its thread ends with the test binary.
pub(crate) struct FileServer {
    port: u16,
    stalled: Receiver<()>,
}

impl FileServer {
    /// Serves what is below `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::serving(directory, "nothing", false)
    }

    /// Sends half of every file whose path ends so, and then nothing more while the client waits.
    pub(crate) fn stalling(directory: &Path, ending: &'static str) -> Self {
        Self::serving(directory, ending, true)
    }

    /// Sends half of every file whose path ends so, and closes the connection.
    pub(crate) fn breaking(directory: &Path, ending: &'static str) -> Self {
        Self::serving(directory, ending, false)
    }

    fn serving(directory: &Path, ending: &'static str, stalls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, stalled) = channel();
        let directory = directory.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (directory, tell) = (directory.clone(), stalls.then(|| tell.clone()));
                // A client that leaves is what some tests are about.
                std::thread::spawn(move || drop(answer(&stream.unwrap(), &directory, ending, tell)));
            }
        });
        Self { port, stalled }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until half of a file was sent.
    #[track_caller]
    pub(crate) fn until_stalled(&self) {
        self.stalled.recv_timeout(PATIENCE).unwrap();
    }
}

fn answer(
    mut stream: &TcpStream,
    directory: &Path,
    ending: &str,
    tell: Option<Sender<()>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let file: PathBuf = directory.join(path.trim_start_matches('/'));
    let Ok(bytes) = std::fs::read(file) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes())?;
    if !path.ends_with(ending) {
        return stream.write_all(&bytes);
    }
    stream.write_all(&bytes[..bytes.len() / 2])?;
    let Some(tell) = tell else { return Ok(()) };
    let _ = tell.send(());
    // Until the client has gone.
    reader.read_line(&mut line).map(drop)
}
