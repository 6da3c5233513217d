//! Rows of the HTTP door. Small requests go through one hyper client, files through a bare socket and one buffer, so that
//! the client costs next to nothing beside what it measures.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use crate::guest::{Daemon, Floor, Lab};
use crate::nats::{IN_FLIGHT, PROGRAM};
use crate::table::{Bar, Row, Table, Unit, interleave, median_microseconds};

/// The buffer of clients and floors that move files, in bytes.
pub(crate) const BODY_BUFFER: usize = 1024 * 1024;
const FILE_SIZE: usize = 64 * 1024 * 1024;
const ROUNDS: usize = 9;

/// Measures all rows of the HTTP door.
///
/// # Errors
/// The daemon answered with an error, or a process is gone.
pub(crate) async fn rows(lab: &Lab, daemon: &Daemon, table: &mut Table) -> Result<()> {
    runs(daemon, table).await?;
    downloads(lab, daemon, table).await?;
    uploads(lab, daemon, table).await
}

async fn runs(daemon: &Daemon, table: &mut Table) -> Result<()> {
    let floor = Floor::start("http", &[])?;
    let mut bare = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..IN_FLIGHT {
        bare.push(Caller::connect(floor.greeting.parse()?, &daemon.token).await?);
        ours.push(Caller::connect(daemon.port, &daemon.token).await?);
    }
    let (bare, ours) = (&mut bare[..], &mut ours[..]);
    let rounds = interleave(
        ROUNDS,
        async || one_by_one(&mut bare[0]).await,
        async || one_by_one(&mut ours[0]).await,
    )
    .await?;
    table.add(Row::of(
        "HTTP processes/run true, p50",
        &rounds,
        Unit::Microseconds,
        Bar::UpTo(1.4),
    ));
    let rounds = interleave(
        ROUNDS,
        async || many_at_once(bare).await,
        async || many_at_once(ours).await,
    )
    .await?;
    let what = "HTTP processes/run true, 32 in flight";
    table.add(Row::of(
        what,
        &rounds,
        Unit::OperationsPerSecond,
        Bar::NotUnder(0.8),
    ));
    Ok(())
}

async fn one_by_one(caller: &mut Caller) -> Result<f64> {
    let mut latencies = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        caller.run().await?;
        latencies.push(start.elapsed());
    }
    Ok(median_microseconds(&latencies))
}

async fn many_at_once(callers: &mut [Caller]) -> Result<f64> {
    const EACH: usize = 16;
    let start = Instant::now();
    let count = callers.len() * EACH;
    try_join_all(callers.iter_mut().map(|caller| async move {
        for _ in 0..EACH {
            caller.run().await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// One connection that is kept.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    authorization: String,
}

impl Caller {
    pub(crate) async fn connect(port: u16, token: &str) -> Result<Self> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority: format!("127.0.0.1:{port}"),
            authorization: format!("Bearer {token}"),
        })
    }

    /// One request and its answer, which is JSON.
    pub(crate) async fn post(&mut self, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.post_bytes(path, body).await?)?)
    }

    /// One request and its answer, as it came.
    pub(crate) async fn post_bytes(&mut self, path: &str, body: &serde_json::Value) -> Result<Bytes> {
        let request = self
            .request(Request::post(path))
            .body(Full::from(body.to_string()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{path}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }

    /// Forgets something.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<()> {
        let request = self.request(Request::delete(path)).body(Full::default())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(())
    }

    /// A body that comes piece by piece.
    pub(crate) async fn get(&mut self, path: &str) -> Result<hyper::body::Incoming> {
        let request = self.request(Request::get(path)).body(Full::default())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        ensure!(status.is_success(), "{path}: {status}");
        Ok(response.into_body())
    }

    fn request(&self, builder: hyper::http::request::Builder) -> hyper::http::request::Builder {
        builder
            .header("host", &self.authority)
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
    }

    /// Runs [`PROGRAM`] once and checks the answer.
    async fn run(&mut self) -> Result<()> {
        let body = format!(r#"{{"command":"{PROGRAM}"}}"#);
        let request = self
            .request(Request::post("/v1/processes/run"))
            .body(Full::from(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let ran = body.windows(12).any(|window| window == br#""exitCode":0"#);
        ensure!(
            status.is_success() && ran,
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }
}

async fn downloads(lab: &Lab, daemon: &Daemon, table: &mut Table) -> Result<()> {
    std::fs::write(lab.memory.path().join("download"), vec![0xa5; FILE_SIZE])?;
    let (_nginx, port) = lab.nginx().await?;
    let mut nginx = Transfer::connect(port, daemon)?;
    let mut ours = Transfer::connect(daemon.port, daemon)?;
    let rounds = interleave(
        ROUNDS,
        async || nginx.download("/download"),
        async || ours.download("/v1/fs/file?path=download"),
    )
    .await?;
    table.add(Row::of(
        "HTTP GET 64 MiB, tmpfs",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.7),
    ));
    Ok(())
}

async fn uploads(lab: &Lab, daemon: &Daemon, table: &mut Table) -> Result<()> {
    let target = lab.memory.path().join("upload-floor");
    let floor = Floor::start("upload", &[target.to_str().context("the path is not UTF-8")?])?;
    let mut bare = Transfer::connect(floor.greeting.parse()?, daemon)?;
    let mut ours = Transfer::connect(daemon.port, daemon)?;
    let path = "/v1/fs/file?path=upload";
    let rounds = interleave(ROUNDS, async || bare.upload(path), async || ours.upload(path)).await?;
    table.add(Row::of(
        "HTTP PUT 64 MiB, tmpfs",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.7),
    ));
    ensure!(
        std::fs::metadata(lab.memory.path().join("upload"))?.len() == FILE_SIZE as u64,
        "a short upload"
    );
    Ok(())
}

/// A kept connection that moves [`FILE_SIZE`] bytes at a time.
struct Transfer {
    stream: TcpStream,
    headers: String,
    buffer: Vec<u8>,
}

impl Transfer {
    fn connect(port: u16, daemon: &Daemon) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let headers = format!(
            "Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {}\r\n",
            daemon.token
        );
        Ok(Self {
            stream,
            headers,
            buffer: vec![0; BODY_BUFFER],
        })
    }

    /// Megabytes per second of one download.
    fn download(&mut self, path: &str) -> Result<f64> {
        let start = Instant::now();
        write!(self.stream, "GET {path} HTTP/1.1\r\n{}\r\n", self.headers)?;
        let size = self.response()?;
        ensure!(size == FILE_SIZE, "{size} bytes came");
        Ok(size as f64 / 1e6 / start.elapsed().as_secs_f64())
    }

    /// Megabytes per second of one upload.
    fn upload(&mut self, path: &str) -> Result<f64> {
        let start = Instant::now();
        write!(
            self.stream,
            "PUT {path} HTTP/1.1\r\n{}Content-Length: {FILE_SIZE}\r\n\r\n",
            self.headers
        )?;
        for _ in 0..FILE_SIZE / BODY_BUFFER {
            self.stream.write_all(&self.buffer)?;
        }
        self.response()?;
        Ok(FILE_SIZE as f64 / 1e6 / start.elapsed().as_secs_f64())
    }

    /// Reads one answer to its end, checks its status, and returns the length of its body.
    fn response(&mut self) -> Result<usize> {
        let head = read_head(&mut self.stream, &mut self.buffer)?.context("the server hung up")?;
        let status = self.buffer.get(9..12).unwrap_or_default();
        ensure!(
            status.starts_with(b"2"),
            "status {}",
            String::from_utf8_lossy(&self.buffer[..head.filled])
        );
        let mut left = head.content_length - (head.filled - head.end);
        while left > 0 {
            let wanted = left.min(self.buffer.len());
            let count = self.stream.read(&mut self.buffer[..wanted])?;
            ensure!(count > 0, "the body ended {left} bytes early");
            left -= count;
        }
        Ok(head.content_length)
    }
}

/// Where the head of a message ends in the buffer, and what its body will be.
pub(crate) struct Head {
    /// Length of the head with its empty line.
    pub(crate) end: usize,
    /// Bytes in the buffer; those after `end` are body.
    pub(crate) filled: usize,
    /// Of the body, in bytes.
    pub(crate) content_length: usize,
}

/// Reads until the empty line; `None` when the peer has closed before the first byte.
///
/// # Errors
/// The socket fails, the head does not fit, or it does not say how long the body is.
pub(crate) fn read_head(stream: &mut impl Read, buffer: &mut [u8]) -> Result<Option<Head>> {
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            ensure!(filled == 0, "the peer hung up within a head");
            return Ok(None);
        }
        filled += count;
        let Some(at) = buffer[..filled]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..at])?;
        for line in head.lines() {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                return Ok(Some(Head {
                    end: at + 4,
                    filled,
                    content_length: value.trim().parse()?,
                }));
            }
        }
        bail!("no content length in {head:?}");
    }
}
